# A solution.
	.include "common.s"

main:	mov 16(%ebx), %esi		# the list of modules
	mov 8(%esi), %ecx		# the size of the first
	mov (%esi), %esi		# and its address
next:	mov (%esi), %al
	call char
	inc %esi
	loop next
	ret
