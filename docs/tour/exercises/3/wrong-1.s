# Each page is looked at just after it was marked.
# Gets: Pages 2 and 5 are one, and the guest sent nothing: give every page a mark of its own first, all of them, and only then look which mark is not where it was put.
	.code16
	mov $0x1000, %ax
	mov %ax, %ds			# data page N is at offset N * 0x1000
	mov $0x3f8, %dx
	xor %bx, %bx
	mov $'0', %al
look:	mov %al, (%bx)
	mov (%bx), %ah
	cmp %al, %ah
	jne found
	inc %al
	add $0x1000, %bx
	cmp $0x8000, %bx
	jne look
	hlt
found:	out %al, (%dx)
	mov %ah, %al
	out %al, (%dx)
	hlt
