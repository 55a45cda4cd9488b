# Never ends.
	.code16
again:	jmp again
