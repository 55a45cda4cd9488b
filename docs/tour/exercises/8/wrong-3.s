# Two loads.
# Gets: The guest read the register 2 times, and each read is an exit: keep what the first has loaded.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	mov bar + 4, %eax
	mov bar + 4, %eax
	popcnt %eax, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
