# An initrd is no text.
# Gets: The guest sent 3 of 8 bytes, up to a zero: an initrd is no text, and its size stands in the
#  list, 8 bytes after its address.
	.include "common.s"

main:	mov 16(%ebx), %esi
	mov (%esi), %esi
next:	mov (%esi), %al
	test %al, %al
	jz done
	call char
	inc %esi
	jmp next
done:	ret
