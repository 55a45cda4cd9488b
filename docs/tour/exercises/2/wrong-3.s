# Two bytes at a time.
# Gets: One `out` wrote 2 bytes: the name of the register says how many, and %al is the one byte of %ax that COM1 wants.
	.code16
	mov $0x3f8, %dx
	mov $'1', %ax
again:	out %ax, (%dx)
	inc %ax
	cmp $'9' + 1, %ax
	jne again
	hlt
