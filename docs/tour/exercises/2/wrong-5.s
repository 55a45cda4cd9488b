# The loop begins too early: each round sends the first digit again.
# Gets: The guest did not end within 5 s: look at where the loop begins, and at what its condition compares.
	.code16
	mov $0x3f8, %dx
again:	mov $'1', %al
	out %al, (%dx)
	inc %al
	cmp $'9' + 1, %al
	jne again
	hlt
