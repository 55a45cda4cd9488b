# As it was.
# Gets: KVM cannot emulate an instruction of the guest's (f3 0f b8 05 04 00 00 c0): load the register
#  with `mov`, which KVM knows, and count in the processor.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	popcnt bar + 4, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
