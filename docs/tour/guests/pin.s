# Lets the edu device interrupt three times by its pin, which mini-vmm has connected to pin 17 of the
# I/O APIC.
	.include "device.s"

	.set pin, 17

main:	call tables
	call answer
	movl $0x10 + 2 * pin, 0xfec00000	# the lower half of the pin's entry
	movl $0x8000 + vector, 0xfec00010	# level-triggered, to CPU 0
	movl $1, bar + 0x60
	call wait
	movl $2, bar + 0x60
	call wait
	movl $3, bar + 0x60
	jmp wait
