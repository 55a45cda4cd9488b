# Starts an NVMe controller, and leaves it running. Its status register (CSTS) is 1 then.
	.set OFFSET, 0x1c
	.include "mark.s"

mark:	movl $0, bar + 0x14		# CC: stop, if it runs
	movl $0x001f001f, bar + 0x24	# AQA: two queues with 32 entries each,
	movl $0x200000, bar + 0x28	# ASQ: which are in the guest's memory
	movl $0, bar + 0x2c
	movl $0x201000, bar + 0x30	# ACQ
	movl $0, bar + 0x34
	movl $0x00460001, bar + 0x14	# CC: start
	mov $1000000, %ecx
ready:	testl $3, bar + 0x1c		# until it runs, or has failed
	loopz ready
	ret
