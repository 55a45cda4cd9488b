# Sends "exits\n" to the serial port as a careful driver does: before each character, the driver
# asks whether the port can take it. Then the guest switches the machine off.
	.section .note, "a", @note	# PVH: where a 32-bit processor begins
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.text
	.code32
start:	mov $text, %esi
next:	mov $0x3fd, %edx		# the line status register
wait:	in (%dx), %al
	test $0x20, %al			# can it take a character?
	jz wait
	mov $0x3f8, %edx		# the data register
	mov (%esi), %al
	out %al, (%dx)
	inc %esi
	cmp $end, %esi
	jne next
	mov $0x600, %edx		# sleep control: power off
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "exits\n"
end:
