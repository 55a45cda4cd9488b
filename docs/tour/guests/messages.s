# Lets the edu device interrupt three times by MSI.
	.include "device.s"

main:	call tables
	call answer
	call message
	movl $1, bar + 0x60
	call wait
	movl $2, bar + 0x60
	call wait
	movl $3, bar + 0x60
	jmp wait
