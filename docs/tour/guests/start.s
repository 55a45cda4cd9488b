# Prints what a kernel gets from the program that starts it: the structure at %ebx, a field a line,
# and the command line.
	.include "common.s"

main:	mov %ebx, %esi
	mov $14, %ecx			# fourteen dwords
next:	mov (%esi), %eax
	call hex
	mov $'\n', %al
	call char
	add $4, %esi
	loop next

	mov 24(%ebx), %esi		# the address of the command line
text:	mov (%esi), %al
	test %al, %al			# a zero ends it
	jz done
	call char
	inc %esi
	jmp text
done:	mov $'\n', %al
	call char
	ret
