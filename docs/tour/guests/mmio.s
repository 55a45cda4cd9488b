# Reads the identity of the device at 00:00.0 twice: by ports, and by memory (ECAM). Then a store to
# an address where nothing is.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.text
	.code32
start:	mov $0xcf8, %edx
	mov $0x80000000, %eax		# bus 0, device 0, function 0, register 0
	out %eax, (%dx)
	mov $0xcfc, %edx
	in (%dx), %eax
	mov 0xe0000000, %ebx		# the same register in memory
	cmp %eax, %ebx
	jne differ
	movl $1, 0xd8000000
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
differ:	ud2
