#include "../mmq.cuh"

DECL_MMQ_CASE(block_q8_0)
