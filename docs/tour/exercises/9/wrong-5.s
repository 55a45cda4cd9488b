# Interrupts are off.
# Gets: MSI is set up, and no interrupt came: the processor takes none while its interrupt flag is
#  clear.
	.include "device.s"

main:	call tables
	call answer
	call connect
	movl $1, bar + 0x60
	call expect
	movl $2, bar + 0x60
	jmp expect

connect:
	cli
	mov $0x844, %eax
	mov $apic, %ecx
	call write
	mov $0x84c, %eax
	mov $vector, %ecx
	call write
	mov $0x840, %eax
	call read
	or $0x10000, %eax
	mov %eax, %ecx
	mov $0x840, %eax
	jmp write
