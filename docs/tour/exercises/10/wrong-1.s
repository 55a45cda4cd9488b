# The command line is no module.
# Gets: The guest sent the command line: the address of that is at 24, and the address of the list of
#  modules is at 16.
	.include "common.s"

main:	mov 24(%ebx), %esi
next:	mov (%esi), %al
	test %al, %al
	jz done
	call char
	inc %esi
	jmp next
done:	ret
