# No question at all.
# Gets: The guest never read port 0x3fd: it has no exit left, but a real UART would have lost characters, so ask once for each sixteen.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start
	.text
	.code32
start:	mov $text, %esi
	mov $end - text, %ecx
	mov $0x3f8, %edx
	rep outsb
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "the guest waits for what it reads"
end:
