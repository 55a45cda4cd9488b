# Counts the bits of a register of the edu device, which keeps what is written to it, inverted: 12.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	popcnt bar + 4, %eax
	mov $text_bits, %esi
	jmp say
text_bits:
	.asciz "bits that are set: "
