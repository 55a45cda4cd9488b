# Prints the first 64 bytes of the configuration space of device 1, a dword a line.
	.include "common.s"

main:	mov $1 << 11, %esi
again:	mov %esi, %eax
	call read
	call hex
	mov $'\n', %al
	call char
	add $4, %esi
	cmp $(1 << 11) + 64, %esi
	jne again
	ret
