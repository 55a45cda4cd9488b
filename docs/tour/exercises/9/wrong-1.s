# Never turned on.
# Gets: MSI is off: the device has an address and data, and asks bit 16 of the first dword whether it
#  may use them.
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
	mov $vector, %ecx
	call write
	mov $0x840, %eax
	call read
	mov %eax, %ecx
	mov $0x840, %eax
	jmp write
