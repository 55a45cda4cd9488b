# One page too many is looked at.
# Gets: The guest touched an address without memory ("write 0x18000 [38]"): the pages are at 0x10000 to 0x17fff, so the segment is 0x1000 and the offset of page 7 is 0x7000.
	.code16
	mov $0x1000, %ax
	mov %ax, %ds			# data page N is at offset N * 0x1000
	mov $0x3f8, %dx
	xor %bx, %bx			# the offset of a page
	mov $'0', %al			# its mark
mark:	mov %al, (%bx)
	inc %al
	add $0x1000, %bx
	cmp $0x9000, %bx
	jne mark

	xor %bx, %bx
	mov $'0', %al
look:	mov (%bx), %ah
	cmp %al, %ah
	jne found
	inc %al
	add $0x1000, %bx
	cmp $0x9000, %bx
	jne look
	hlt
found:	out %al, (%dx)			# this page has lost its mark
	mov %ah, %al
	out %al, (%dx)			# to that one
	hlt
