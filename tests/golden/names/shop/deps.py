from shop_pikku import Context, WorkflowContext, pikku_func as task
import shop_pikku

flow = shop_pikku.pikku_workflow_func
wire = shop_pikku.wire_workflow
signal = shop_pikku.wire_signal
