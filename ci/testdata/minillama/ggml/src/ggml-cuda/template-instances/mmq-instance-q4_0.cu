#include "../mmq.cuh"

DECL_MMQ_CASE(block_q4_0)
