# A solution.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	mov bar + 4, %eax
	popcnt %eax, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
