# Stores a byte in data page 2, and sends what page 5 has.
	.code16
	mov $0x1000, %ax		# segment 0x1000: addresses from 0x10000 on
	mov %ax, %ds
	movb $'x', 0x2000
	mov 0x5000, %al
	mov $0x3f8, %dx
	out %al, (%dx)
	hlt
