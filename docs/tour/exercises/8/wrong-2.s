# Another instruction that KVM does not know.
# Gets: KVM cannot emulate an instruction of the guest's (0f 6e 05 04 00 00 c0): load the register
#  with `mov`, which KVM knows, and count in the processor.
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
	movd bar + 4, %mm0
	movd %mm0, %eax
	popcnt %eax, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
