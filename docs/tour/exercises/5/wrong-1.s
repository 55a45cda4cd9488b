# All that answer are counted.
# Gets: The guest counted 3 bridges, and there are 2: the host bridge at device 0 answers too, and its class is 0x0600.
	.include "common.s"

main:	xor %ebx, %ebx			# the device number
	xor %ecx, %ecx			# the count
next:	mov %ebx, %eax
	shl $11, %eax
	call read
	cmp $-1, %eax
	je other
	inc %ecx
other:	inc %ebx
	cmp $32, %ebx
	jne next
	lea '0'(%ecx), %eax
	call char
	ret
