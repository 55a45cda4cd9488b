# Looks at each device number of bus 0, and prints what answers: the number, the IDs, the class.
	.include "common.s"

main:	xor %ebx, %ebx
next:	mov %ebx, %esi
	shl $11, %esi			# the device number is in bits 15 to 11
	mov %esi, %eax
	call read			# register 0: vendor and device
	cmp $-1, %eax
	je nobody
	xchg %eax, %ebx
	call hex			# the number
	xchg %eax, %ebx
	call hex			# the IDs
	lea 8(%esi), %eax
	call read			# register 8: class and revision
	call hex
	mov $'\n', %al
	call char
nobody:	inc %ebx
	cmp $32, %ebx
	jne next
	ret
