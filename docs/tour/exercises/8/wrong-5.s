# Not counted.
# Gets: The guest said 00000fff, and 0000000c is wanted: 12 bits of the register are set.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	mov bar + 4, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
