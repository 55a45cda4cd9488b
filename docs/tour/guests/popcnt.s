# Counts the bits of a device's register: an instruction that KVM does not know.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.text
	.code32
start:	popcnt 0xe0000000, %eax
	hlt
