# The size has 64 bits, and this is its upper half.
# Gets: The guest did not end within 5 s: `loop` counts %ecx down to zero, and from zero it takes
#  4,294,967,296 rounds, so look at where the size is read.
	.include "common.s"

main:	mov 16(%ebx), %esi		# the list of modules
	mov 12(%esi), %ecx
	mov (%esi), %esi		# and its address
next:	mov (%esi), %al
	call char
	inc %esi
	loop next
	ret
