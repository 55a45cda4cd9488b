# An immediate port has eight bits.
# Gets: The guest wrote to port 0xf8, not to 0x3f8: an `out` with the port in it has room for ports up to 0xff, so put the port into %dx.
	.code16
	mov $'1', %al
again:	out %al, $0xf8
	inc %al
	cmp $'9' + 1, %al
	jne again
	hlt
