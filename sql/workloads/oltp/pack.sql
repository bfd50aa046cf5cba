--: keep or stop
SELECT id AS order_id
  FROM sales_order
 WHERE status = 'picked' AND warehouse_id = :warehouse
 ORDER BY placed_at
 LIMIT 1
   FOR UPDATE SKIP LOCKED;

UPDATE sales_order SET status = 'packed' WHERE id = :order_id;
