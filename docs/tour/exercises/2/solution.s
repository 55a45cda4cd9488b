# A solution of chapter 2's exercise.
	.code16
	mov $0x3f8, %dx
	mov $'1', %al
again:	out %al, (%dx)
	inc %al
	cmp $'9' + 1, %al
	jne again
	hlt
