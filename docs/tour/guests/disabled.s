# Reads register 0 of device 0 with the enable bit, and without it.
	.include "common.s"

main:	xor %eax, %eax
	call read
	call hex
	mov $0, %eax			# bit 31 is clear
	mov $0xcf8, %edx
	out %eax, (%dx)
	mov $0xcfc, %edx
	in (%dx), %eax
	call hex
	mov $'\n', %al
	call char
	ret
