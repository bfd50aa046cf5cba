-- Materialised views of sales by product and day's sums: reports over years read sums instead of lines. Fresh as of the last refresh.
-- up
CREATE MATERIALIZED VIEW wms.sales_by_product AS
SELECT l.product_id, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue
  FROM wms.sales_order o JOIN wms.sales_order_line l ON l.order_id = o.id
 WHERE o.status <> 'cancelled'
 GROUP BY l.product_id;
CREATE UNIQUE INDEX ON wms.sales_by_product (product_id);
CREATE MATERIALIZED VIEW wms.sales_by_month AS
SELECT date_trunc('month', o.placed_at) AS month, o.warehouse_id, p.category_id, sum(l.qty) AS qty,
       sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue
  FROM wms.sales_order o JOIN wms.sales_order_line l ON l.order_id = o.id JOIN wms.product p ON p.id = l.product_id
 WHERE o.status <> 'cancelled'
 GROUP BY 1, 2, 3;
CREATE UNIQUE INDEX ON wms.sales_by_month (month, warehouse_id, category_id);
CREATE MATERIALIZED VIEW wms.sales_by_customer AS
SELECT o.customer_id, count(DISTINCT o.id) AS orders, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue,
       count(DISTINCT o.warehouse_id) AS warehouses, count(DISTINCT p.category_id) AS categories
  FROM wms.sales_order o JOIN wms.sales_order_line l ON l.order_id = o.id JOIN wms.product p ON p.id = l.product_id
 WHERE o.status <> 'cancelled'
 GROUP BY o.customer_id;
CREATE UNIQUE INDEX ON wms.sales_by_customer (customer_id);
CREATE MATERIALIZED VIEW wms.margin_by_day AS
SELECT o.placed_at::date AS day, p.category_id, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue,
       sum(l.qty * (l.unit_price * (1 - l.discount) - h.cost)) AS margin
  FROM wms.sales_order o JOIN wms.sales_order_line l ON l.order_id = o.id JOIN wms.product p ON p.id = l.product_id
  JOIN wms.price_history h ON h.product_id = p.id AND h.valid_from = (SELECT first_day FROM wms.dataset)
 WHERE o.status <> 'cancelled'
 GROUP BY 1, 2;
CREATE UNIQUE INDEX ON wms.margin_by_day (day, category_id);
-- down
DROP MATERIALIZED VIEW wms.sales_by_product, wms.sales_by_month, wms.sales_by_customer, wms.margin_by_day;
-- refresh
REFRESH MATERIALIZED VIEW wms.sales_by_product;
REFRESH MATERIALIZED VIEW wms.sales_by_month;
REFRESH MATERIALIZED VIEW wms.sales_by_customer;
REFRESH MATERIALIZED VIEW wms.margin_by_day;
-- statement abc_analysis
WITH ranked AS (
    SELECT p.id, p.sku, c.path AS category, s.name AS supplier, r.revenue,
           sum(revenue) OVER (ORDER BY revenue DESC, p.id) AS running, sum(revenue) OVER () AS total
      FROM sales_by_product r
      JOIN product p ON p.id = r.product_id
      JOIN category c ON c.id = p.category_id
      JOIN supplier s ON s.id = p.supplier_id)
SELECT id, sku, category, supplier, revenue
  FROM ranked
 WHERE running - revenue < total * :share::int / 100
 ORDER BY revenue DESC, id
 LIMIT 200
-- statement best_customers
SELECT c.id, c.name, c.country, c.tier, r.orders, r.revenue, r.warehouses, r.categories
  FROM customer c
  JOIN sales_by_customer r ON r.customer_id = c.id
 WHERE c.kind = :kind
 ORDER BY revenue DESC, c.id
 LIMIT 100
-- statement demand_by_month
SELECT m.month, w.code AS warehouse, middle.name AS category, sum(m.qty)::bigint AS qty, sum(m.revenue) AS revenue
  FROM sales_by_month m
  JOIN warehouse w ON w.id = m.warehouse_id
  JOIN category leaf ON leaf.id = m.category_id
  JOIN category middle ON middle.id = leaf.parent_id
  JOIN category top ON top.id = middle.parent_id
 WHERE top.name = :top
 GROUP BY m.month, w.code, middle.name
 ORDER BY m.month, w.code, middle.name
-- statement category_margin
SELECT top.name AS top, middle.name AS middle, sum(m.revenue) AS revenue, sum(m.margin) AS margin
  FROM margin_by_day m
  JOIN category leaf ON leaf.id = m.category_id
  JOIN category middle ON middle.id = leaf.parent_id
  JOIN category top ON top.id = middle.parent_id
 WHERE m.day >= (:last_day::date - 364) AND m.day < (:last_day::date + 1)
 GROUP BY top.name, middle.name
 ORDER BY top.name, middle.name
