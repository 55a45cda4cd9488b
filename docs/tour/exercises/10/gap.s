# Chapter 10: send the bytes of the initrd, all of them, and no more.
# Check it with: cargo run -p tour -- check 10
	.include "common.s"

main:	# Here is the gap: %esi is to be the address of the initrd, and %ecx its size.

next:	mov (%esi), %al
	call char
	inc %esi
	loop next
	ret
