# Nothing stops the processor.
# Gets: The guest sent "123456789" and then ran into bytes that are no program: after its last instruction the processor goes on, so stop it with `hlt`.
	.code16
	mov $0x3f8, %dx
	mov $'1', %al
again:	out %al, (%dx)
	inc %al
	cmp $'9' + 1, %al
	jne again
