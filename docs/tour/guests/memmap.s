# Prints the memory map: for each range its start, its size and its type, numbers of 64, 64 and 32
# bits.
	.include "common.s"

main:	mov 40(%ebx), %esi		# where the map is
	mov 48(%ebx), %ecx		# how many entries it has
next:	mov 4(%esi), %eax
	call hex
	mov 0(%esi), %eax
	call hex
	mov 12(%esi), %eax
	call hex
	mov 8(%esi), %eax
	call hex
	mov 16(%esi), %eax
	call hex
	mov $'\n', %al
	call char
	add $24, %esi
	loop next
	ret
