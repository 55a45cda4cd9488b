# The loop stays at device 0.
# Gets: The guest did not end within 5 s: each round of the loop must look at the next device number.
	.include "common.s"

main:	xor %ebx, %ebx			# the device number
	xor %ecx, %ecx			# the count
next:	mov %ebx, %eax
	shl $11, %eax
	or $8, %eax
	call read
	shr $16, %eax
	cmp $0x0604, %eax
	jne other
	inc %ecx
other:
	cmp $32, %ebx
	jne next
	lea '0'(%ecx), %eax
	call char
	ret
