# The class is compared where the revision is.
# Gets: The guest counted 0 bridges, and there are 2: register 8 has the class in its upper 16 bits and the revision in its lowest byte, so shift before you compare with 0x0604.
	.include "common.s"

main:	xor %ebx, %ebx			# the device number
	xor %ecx, %ecx			# the count
next:	mov %ebx, %eax
	shl $11, %eax
	or $8, %eax
	call read
	cmp $0x0604, %eax
	jne other
	inc %ecx
other:	inc %ebx
	cmp $32, %ebx
	jne next
	lea '0'(%ecx), %eax
	call char
	ret
