# Prints a line, and sleeps until somebody ends it.
	.include "common.s"

main:	mov $text, %esi
next:	lodsb
	call char
	cmp $end, %esi
	jne next
again:	hlt
	jmp again
text:	.ascii "here\n"
end:
