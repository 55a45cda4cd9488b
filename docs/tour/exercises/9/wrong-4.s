# CPU 1.
# Gets: The address register has fee01000: bits 12 to 19 are the APIC ID, and the guest has CPU 0 alone.
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
	mov $apic + 0x1000, %ecx
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
