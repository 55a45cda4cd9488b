# Lets the edu device read at 128 MiB, where a guest of 64 MiB has nothing.
	.include "device.s"

main:	call tables
	call answer
	call message
	mov $0x8000000, %eax
	mov $0x40000, %ebx
	mov $5, %ecx
	jmp copy
