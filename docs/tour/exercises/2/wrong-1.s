# The loop ends one digit early.
# Gets: The guest sent "12345678", and wanted is "123456789": follow %al through the loop by hand, from the first digit to the comparison that ends it.
	.code16
	mov $0x3f8, %dx
	mov $'1', %al
again:	out %al, (%dx)
	inc %al
	cmp $'9', %al
	jne again
	hlt
