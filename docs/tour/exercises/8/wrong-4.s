# The answer without the question.
# Gets: The guest never read the register: the device inverts what is written, and only it can say so.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	mov $12, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
