# Starts an NVMe controller in two boots, with a reset of the machine between them.
	.set BEEN, 0x70000
	.include "mark-nvme.s"
