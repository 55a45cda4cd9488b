# Drives QEMU's edu device: an interrupt on request, then 2048 bytes of DMA to the device's buffer and
# from there to another page. Prints the reason that the device gives for each interrupt, and how
# many words came back.
	.include "device.s"

	.set from, 0x200000		# the page that the device reads
	.set to, 0x201000		# the page that the device writes

main:	call tables
	call answer
	call message
	movl $1, bar + 0x60		# interrupt me, for reason 1
	call wait

	mov $from, %edi
	mov $512, %ecx
fill:	mov %ecx, (%edi)
	add $4, %edi
	loop fill

	mov $from, %eax			# to the device's buffer, which has address 0x40000 there
	mov $0x40000, %ebx
	mov $5, %ecx			# start, and interrupt me at the end
	call copy
	mov $0x40000, %eax		# and back, to another page
	mov $to, %ebx
	mov $7, %ecx
	call copy

	mov $from, %esi
	mov $to, %edi
	mov $512, %ecx
	xor %eax, %eax
count:	cmpsl
	jne other
	inc %eax
other:	loop count
	mov $came_back, %esi
	jmp say				# its `ret` ends `main`
