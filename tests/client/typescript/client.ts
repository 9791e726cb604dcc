import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const shop = createClient<paths>({
  baseUrl: "https://shop.example/pikku",
  headers: { Authorization: "Bearer secret" },
});

export async function price(): Promise<string> {
  const { data, error } = await shop.POST("/rpc/quote", { body: [{ sku: "apple", quantity: 2 }] });
  if (error !== undefined) {
    throw new Error(`${error.code}: ${error.message}`);
  }
  return data;
}

export async function order(): Promise<string> {
  const { data, error } = await shop.POST("/workflows/order/runs", {
    body: {
      input: {
        order_id: "1",
        email: "ada@example.com",
        address: "1 Main Street",
        card: "visa",
        lines: [{ sku: "apple", quantity: 2 }],
        total: "19.80",
      },
      run_id: "order-1",
    },
  });
  if (error !== undefined) {
    throw new Error(error.message);
  }
  const status: "running" | "suspended" | "completed" | "failed" | "cancelled" = data.status;
  return `${data.run_id} ${status}`;
}

export async function result(runId: string): Promise<string | undefined> {
  const { data } = await shop.GET("/runs/{run_id}/result", {
    params: { path: { run_id: runId }, query: { wait: 5 } },
  });
  return data?.run_id;
}

export type Line = components["schemas"]["Line.Input"];

export async function wrong(): Promise<void> {
  // @ts-expect-error: a quantity is a number
  await shop.POST("/rpc/quote", { body: [{ sku: "apple", quantity: "two" }] });
  // @ts-expect-error: a total is missing
  await shop.POST("/workflows/order/runs", { body: { input: { order_id: "1" } } });
  // @ts-expect-error: there is no such function
  await shop.POST("/rpc/refund", {});
}
