# Stores a byte in data page 0; reads it at the read-only address, and tries to store there. Then a
# load from an address without memory.
	.code16
	mov $0x3f8, %dx
	mov $0x1000, %ax
	mov %ax, %ds
	movb $'x', 0x0000
	xor %ax, %ax
	mov %ax, %ds
	mov 0x8000, %al
	out %al, (%dx)
	movb $'y', 0x8000
	mov 0x8000, %al
	out %al, (%dx)
	mov 0x9000, %al
	out %al, (%dx)
	hlt
