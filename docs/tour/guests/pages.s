# Waits with the device in hand, for somebody who looks at the host.
	.include "device.s"

main:	call tables
	call answer
here:	hlt
	jmp here
