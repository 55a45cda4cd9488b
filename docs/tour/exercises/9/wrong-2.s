# A vector of the processor's own.
# Gets: The data register has 00000000: its low byte is the vector, and the guest's handler has 0x40.
	.include "device.s"

main:	call tables
	call answer
	call connect
	movl $1, bar + 0x60
	call expect
	movl $2, bar + 0x60
	jmp expect

connect:
	mov $0x844, %eax
	mov $apic, %ecx
	call write
	mov $0x84c, %eax
	mov $0, %ecx
	call write
	mov $0x840, %eax
	call read
	or $0x10000, %eax
	mov %eax, %ecx
	mov $0x840, %eax
	jmp write
