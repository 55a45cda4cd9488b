# The look stays at the first page.
# Gets: The guest did not end within 5 s: each loop must move on to the next page, and stop after eight.
	.code16
	mov $0x1000, %ax
	mov %ax, %ds			# data page N is at offset N * 0x1000
	mov $0x3f8, %dx
	xor %bx, %bx			# the offset of a page
	mov $'0', %al			# its mark
mark:	mov %al, (%bx)
	inc %al
	add $0x1000, %bx
	cmp $0x8000, %bx
	jne mark

	xor %bx, %bx
	mov $'0', %al
look:	mov (%bx), %ah
	cmp %al, %ah
	jne found
	cmp $0x8000, %bx
	jne look
	hlt
found:	out %al, (%dx)			# this page has lost its mark
	mov %ah, %al
	out %al, (%dx)			# to that one
	hlt
