# Says what the edu device calls itself, and then waits with the device in hand, for somebody who looks
# at the host.
	.include "device.s"

main:	call tables
	call answer
	mov bar, %eax
	mov $identification, %esi
	call say
here:	hlt
	jmp here
identification:
	.asciz "identification "
