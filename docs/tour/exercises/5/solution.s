# A solution of chapter 5's exercise.
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
other:	inc %ebx
	cmp $32, %ebx
	jne next
	lea '0'(%ecx), %eax
	call char
	ret
